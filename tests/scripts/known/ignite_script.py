import hashlib

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(88)
x = torch.randn(56, 8)
y = (x[:, :2].prod(dim=1) > 0).long()
train_loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
val_loader = DataLoader(TensorDataset(torch.randn(16, 8), torch.randint(2, (16,))), batch_size=8)

model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss(), gradient_accumulation_steps=4)
evaluator = create_supervised_evaluator(model, metrics={"accuracy": Accuracy()})


@trainer.on(Events.EPOCH_COMPLETED)
def log_validation(engine):
    evaluator.run(val_loader)
    print(f"epoch {engine.state.epoch}: accuracy {evaluator.state.metrics['accuracy']:.3f}")


trainer.run(train_loader, max_epochs=2)
print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
